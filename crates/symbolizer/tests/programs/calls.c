// Calls that are inlined into each other, a function without a type or a size, and one that is only exported.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

volatile unsigned sink;

static inline __attribute__((always_inline)) unsigned innermost(unsigned value) {
    for (unsigned i = 0; i < value % 7; i++) {
        sink += i * value;
    }
    return sink ^ value;
}

static inline __attribute__((always_inline)) unsigned middle(unsigned value) {
    unsigned sum = innermost(value);
    sum += innermost(value + 1);
    return sum;
}

__attribute__((noinline)) unsigned outer(unsigned value) {
    unsigned sum = 0;
    for (unsigned i = 0; i < value; i++) {
        sum += middle(i) * 3;
    }
    return sum;
}

__attribute__((noinline)) static int compare(const void *left, const void *right) {
    unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
    return a < b ? -1 : a > b;
}

__asm__(".text\n.globl handwritten\nhandwritten:\n  xorl %eax, %eax\n  addl $3, %eax\n  ret\n");
unsigned handwritten(void);

__attribute__((noinline)) unsigned recurse(unsigned depth) {
    return depth == 0 ? outer(5) : recurse(depth - 1) + innermost(depth);
}

int main(int argc, char **argv) {
    unsigned values[64];
    for (unsigned i = 0; i < 64; i++) {
        values[i] = outer(i) + handwritten();
    }
    qsort(values, 64, sizeof values[0], compare);
    printf("%u %u %zu\n", values[3], recurse(argc), strlen(argv[0]));
    return 0;
}
