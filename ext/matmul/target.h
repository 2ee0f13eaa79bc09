/* TARGET("a,b") lets what follows use instructions that the rest of the program does not; END_TARGET ends that. */
#define PRAGMA(...) _Pragma(#__VA_ARGS__)
#ifdef __clang__
#define TARGET(LIST) PRAGMA(clang attribute push(__attribute__((target(LIST))), apply_to = function))
#else
#define TARGET(LIST) PRAGMA(GCC target(LIST))
#endif
