/* The operations that Python calls, by name: their arguments are integers, addresses and the bits of floats among them.
 * Nothing is checked that `ext.matmul`'s callers have checked before. */
#ifndef EXT_MATMUL_OPERATIONS_H
#define EXT_MATMUL_OPERATIONS_H

#include "program.h"

/* The order of arguments is in `_matmul.pyi`. */
typedef struct OperationRow {
    const char *name;
    Operation run;
    int count; /* of arguments */
    Reading (*reading)(const long long *numbers); /* or NULL */
} OperationRow;

extern const OperationRow operations[];
extern const int num_operations;

#endif
