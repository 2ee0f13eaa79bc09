/* One job at a time. Its numbers are drawn from `ticket`, whose upper half says which job it is: a thread that
 * comes late can draw nothing from a job that is over, nor take a number of the next by what it knows of the last. */
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

#define MAX_THREADS 256
#define SPINS 2000 /* looks at `ticket` before a thread sleeps: some tens of microseconds */

#define EXPECTED_BYTES (512 * 1024) /* what stays near */
#define FETCHED_BYTES 1024          /* at once */
#define LINE_BYTES 64

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* held by whoever has a job */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the two conditions */
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

static _Atomic uint64_t ticket; /* job << 32 | next number; a job has an even number */
static _Atomic(Task) job_task;
static _Atomic(void *) job_context;
static atomic_int job_count, job_threads, num_done, num_asleep;
static _Atomic uintptr_t expected, expected_end; /* what nobody has fetched of what is read next */
static int num_threads = 1; /* with the caller's; changed in one's turn */

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static uint32_t current_job(void) { return (uint32_t)(atomic_load(&ticket) >> 32); }

/* What is read of the job is true if the draw succeeds: nobody changes it before all drawn numbers are done. */
static void take_part(uint32_t job) {
    for (;;) {
        uint64_t drawn = atomic_load(&ticket);
        Task task = atomic_load(&job_task);
        void *context = atomic_load(&job_context);
        int count = atomic_load(&job_count);
        if ((uint32_t)(drawn >> 32) != job || (uint32_t)drawn >= (uint32_t)count) return;
        if (!atomic_compare_exchange_weak(&ticket, &drawn, drawn + 1)) continue;
        task(context, (int)drawn);
        if (atomic_fetch_add(&num_done, 1) + 1 == count) {
            pthread_mutex_lock(&lock);
            pthread_cond_signal(&ended);
            pthread_mutex_unlock(&lock);
        }
    }
}

/* Returns 0 if there is nothing. That a new expectation may come in between costs a few lines of something else. */
static int fetch_some(void) {
    uintptr_t from = atomic_load(&expected);
    if (from >= atomic_load(&expected_end)) return 0;
    if (!atomic_compare_exchange_weak(&expected, &from, from + FETCHED_BYTES)) return 1;
    for (int at = 0; at < FETCHED_BYTES; at += LINE_BYTES) __builtin_prefetch((const char *)from + at, 0, 2);
    return 1;
}

void pool_expect(const void *from, size_t bytes) {
    uintptr_t start = (uintptr_t)from / LINE_BYTES * LINE_BYTES;
    atomic_store(&expected_end, 0);
    atomic_store(&expected, start);
    atomic_store(&expected_end, start + (bytes < EXPECTED_BYTES ? bytes : EXPECTED_BYTES));
}

static void wait_for_other_than(uint32_t job) {
    for (int i = 0; i < SPINS; i++) {
        if (current_job() != job) return;
        if (fetch_some()) continue;
        pause_briefly();
    }
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&num_asleep, 1);
    while (current_job() == job) pthread_cond_wait(&begun, &lock);
    atomic_fetch_sub(&num_asleep, 1);
    pthread_mutex_unlock(&lock);
}

static void *work(void *argument) {
    int number = (int)(intptr_t)argument;
    uint32_t job = 0;
    for (;;) {
        wait_for_other_than(job);
        job = current_job();
        if (number < atomic_load(&job_threads)) take_part(job);
    }
    return NULL;
}

/* Signals are the business of the interpreter's threads. */
static void start_threads(int wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; num_threads < wanted && num_threads < MAX_THREADS; num_threads++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)num_threads)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* In a forked process: none of the threads is there. */
static void forget_threads(void) {
    pthread_mutex_init(&turn, NULL);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&begun, NULL);
    pthread_cond_init(&ended, NULL);
    atomic_store(&ticket, 0);
    atomic_store(&num_asleep, 0);
    num_threads = 1;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_threads); }

static void begin(int threads, int count, Task task, void *context) {
    uint32_t job = current_job() + 1; /* of which nothing can be drawn, while it is described */
    atomic_store(&ticket, (uint64_t)job << 32 | UINT32_MAX);
    atomic_store(&job_task, task);
    atomic_store(&job_context, context);
    atomic_store(&job_count, count);
    atomic_store(&job_threads, threads);
    atomic_store(&num_done, 0);
    atomic_store(&ticket, (uint64_t)(job + 1) << 32);
    if (!atomic_load(&num_asleep)) return;
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&begun);
    pthread_mutex_unlock(&lock);
}

static void wait_for_end(int count) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&num_done) == count) return;
        pause_briefly();
    }
    pthread_mutex_lock(&lock);
    while (atomic_load(&num_done) != count) pthread_cond_wait(&ended, &lock);
    pthread_mutex_unlock(&lock);
}

void pool_run(int threads, int count, Task task, void *context) {
    if (threads < 2 || count < 2) {
        for (int i = 0; i < count; i++) task(context, i);
        return;
    }
    static pthread_once_t watched = PTHREAD_ONCE_INIT;
    pthread_once(&watched, watch_forks);
    pthread_mutex_lock(&turn);
    if (num_threads < threads) start_threads(threads);
    begin(threads, count, task, context);
    take_part(current_job());
    wait_for_end(count);
    pthread_mutex_unlock(&turn);
}
