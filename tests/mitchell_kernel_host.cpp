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
    const long long *starts, *numbers;
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
    const long long *s = given.numbers;
    mitchell_matmul(given.a, given.b, given.c, given.starts, static_cast<int>(s[0]), static_cast<int>(s[1]), static_cast<int>(s[2]), s[3], s[4],
                    s[5], s[6], static_cast<int>(s[7]));
    ended[current] = true;
}
}  // namespace

// numbers: n, m, depth, four strides, the form, and the three lengths of the grid
extern "C" void run(const unsigned int *a, const unsigned int *b, float *c, const long long *starts, const long long *numbers) {
    given = {a, b, c, starts, numbers};
    for (long long z = 0; z < numbers[10]; z++)
        for (long long y = 0; y < numbers[9]; y++)
            for (long long x = 0; x < numbers[8]; x++) {
                blockIdx = {static_cast<unsigned int>(x), static_cast<unsigned int>(y), static_cast<unsigned int>(z)};
                run_block();
            }
}

