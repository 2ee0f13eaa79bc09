#include "program.h"

#include <stdlib.h>
#include <string.h>

#include "pool.h"

typedef struct Call {
    Operation operation;
    Reading reading, next; /* what the next one reads that reads, if this one does */
    long long numbers[MOST_NUMBERS];
} Call;

struct Program {
    Call *calls;
    int count, room;
};

Program *program_new(void) { return calloc(1, sizeof(Program)); }

int program_add(Program *program, Operation operation, const long long *numbers, Reading reading) {
    if (program->count == program->room) {
        int room = 2 * program->room + 16;
        Call *calls = realloc(program->calls, room * sizeof *calls);
        if (!calls) return -1;
        program->calls = calls;
        program->room = room;
    }
    Call *call = &program->calls[program->count++];
    call->operation = operation;
    call->reading = reading;
    call->next = (Reading){0};
    memcpy(call->numbers, numbers, sizeof call->numbers);
    return 0;
}

/* After the last operation comes the first. */
void program_end(Program *program) {
    Reading next = {0};
    for (int turn = 0; turn < 2; turn++)
        for (int i = program->count - 1; i >= 0; i--) {
            Call *call = &program->calls[i];
            if (!call->reading.bytes) continue;
            call->next = next;
            next = call->reading;
        }
}

int program_run(const Program *program) {
    for (int i = 0; i < program->count; i++) {
        const Call *call = &program->calls[i];
        if (call->next.bytes) pool_expect(call->next.from, call->next.bytes);
        if (call->operation(call->numbers)) return -1;
    }
    return 0;
}

void program_free(Program *program) {
    if (program) free(program->calls);
    free(program);
}
