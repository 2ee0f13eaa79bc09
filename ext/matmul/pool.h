/* Threads that share the work of one matrix product, and sleep between steps. */
#ifndef EXT_MATMUL_POOL_H
#define EXT_MATMUL_POOL_H

#include <stddef.h>

typedef void (*Task)(void *context, int number);

/* Call task(context, 0), … task(context, count - 1) on up to `threads` threads, the caller's among them, and
 * return when all have returned. Whoever is free takes the next number. Calls take turns; the threads are
 * started when they are first needed, and a process that was forked starts its own. */
void pool_run(int threads, int count, Task task, void *context);

/* Say what is read next: threads without work, while they are awake, bring the first of it near. Nothing happens if
 * there is nothing at that place by then. */
void pool_expect(const void *from, size_t bytes);

#endif
