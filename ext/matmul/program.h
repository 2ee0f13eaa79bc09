/* Operations that were called once, to be called again as one: between them there is no interpreter, so the pool's
 * threads find the next one before they sleep. */
#ifndef EXT_MATMUL_PROGRAM_H
#define EXT_MATMUL_PROGRAM_H

#include <stddef.h>

#define MOST_NUMBERS 24

/* Run with its arguments, of which addresses are integers. Returns what is not 0 if memory was short. */
typedef int (*Operation)(const long long *numbers);

/* Memory that an operation reads from end to end; no bytes of one that does not, or of which it is not known. */
typedef struct Reading {
    const void *from;
    size_t bytes;
} Reading;

typedef struct Program Program;

Program *program_new(void); /* NULL if memory is short, as is below what is not 0 */
int program_add(Program *program, Operation operation, const long long *numbers, Reading reading);
void program_end(Program *program); /* after the last operation */
int program_run(const Program *program);
void program_free(Program *program);

#endif
