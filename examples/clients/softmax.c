/* A softmax in C, checked through a pipe:

       cc -O2 -o softmax softmax.c -lm
       refimpl vectors emit softmax --stream | ./softmax | refimpl vectors check softmax --stream

   It reads calls from standard input and answers each (docs/vectors.md has the protocol). Little-endian machines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void softmax(float *x, size_t rows, size_t n) {
    for (; rows--; x += n) {
        float largest = x[0], sum = 0;
        for (size_t i = 1; i < n; i++) largest = fmaxf(largest, x[i]);
        for (size_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - largest);
        for (size_t i = 0; i < n; i++) x[i] /= sum;
    }
}

int main(void) {
    char line[4096], id[256], dtype[32], shape[4096];
    int arguments;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "case %255s %d", id, &arguments) != 2) continue; /* the first and the last line */
        if (arguments != 1 || !fgets(line, sizeof line, stdin) || sscanf(line, "tensor x %31s %4095[^\n]", dtype, shape) != 2 ||
            strcmp(dtype, "float32")) {
            fprintf(stderr, "%s: expected one float32 tensor x, got: %s", id, line);
            return 2;
        }
        char *next = shape;
        size_t count = 1, n = 1;
        for (long rank = strtol(next, &next, 10); rank--; count *= n) n = (size_t)strtol(next, &next, 10);
        float *x = malloc(count * sizeof *x);
        if (!x || fread(x, sizeof *x, count, stdin) != count) return 2;
        softmax(x, count / n, n);
        printf("answer %s float32 %s\n", id, shape);
        fwrite(x, sizeof *x, count, stdout);
        free(x);
    }
    return 0;
}
