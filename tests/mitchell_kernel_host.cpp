// What the kernel needs of CUDA, on one thread of the host: each thread of a block is a coroutine that runs to the next __syncthreads().
// Appended to this: the kernel. Called by test_inference_mitchell.py.
#include <ucontext.h>

#define __global__
#define __device__
#define __noinline__
#define __shared__ static

namespace {
struct Place { unsigned int x, y, z; };
Place threadIdx, blockIdx;
const int THREADS = 256, STACK = 65536;
ucontext_t scheduler, thread_of[THREADS];
char stack_of[THREADS][STACK];
bool ended[THREADS];
int current;

void __syncthreads() { swapcontext(&thread_of[current], &scheduler); }

float __fadd_rn(float a, float b) { return a + b; }
float __fsub_rn(float a, float b) { return a - b; }

struct Arguments {
    const unsigned int *a, *b;
    float *c;
    const long long *starts, *strides;
    int n, m, depth, form;
} given;

void begin();

void run_block() {
    for (current = 0; current < THREADS; current++) {
        getcontext(&thread_of[current]);
        thread_of[current].uc_stack.ss_sp = stack_of[current];
        thread_of[current].uc_stack.ss_size = STACK;
        thread_of[current].uc_link = &scheduler;
        makecontext(&thread_of[current], begin, 0);
        ended[current] = false;
    }
    for (int running = THREADS; running > 0;) {
        running = 0;
        for (current = 0; current < THREADS; current++) {
            if (ended[current]) continue;
            threadIdx = {static_cast<unsigned int>(current % 16), static_cast<unsigned int>(current / 16), 0};
            swapcontext(&scheduler, &thread_of[current]);
            running += !ended[current];
        }
    }
}
}  // namespace

extern "C" void mitchell_matmul(const unsigned int *, const unsigned int *, float *, const long long *, int, int, int, long long, long long,
                                long long, long long, int);

namespace {
void begin() {
    const long long *s = given.strides;
    mitchell_matmul(given.a, given.b, given.c, given.starts, given.n, given.m, given.depth, s[0], s[1], s[2], s[3], given.form);
    ended[current] = true;
}
}  // namespace

extern "C" void run(const unsigned int *a, const unsigned int *b, float *c, const long long *starts, const long long *strides,
                    const int *sizes, const int *grid) {
    given = {a, b, c, starts, strides, sizes[0], sizes[1], sizes[2], sizes[3]};
    for (int z = 0; z < grid[2]; z++)
        for (int y = 0; y < grid[1]; y++)
            for (int x = 0; x < grid[0]; x++) {
                blockIdx = {static_cast<unsigned int>(x), static_cast<unsigned int>(y), static_cast<unsigned int>(z)};
                run_block();
            }
}

