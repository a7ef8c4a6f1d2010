// `launch` runs a kernel by name, as cuLaunchKernel does: the grid's two dimensions, threads of a block, and a pointer to each
// argument.
#include "encoder.cu"

#include <functional>
#include <map>
#include <utility>

namespace {

std::function<void()> body;
constexpr size_t STACK = 64 << 10;

void enter() {
    body();
    current->done = true;
    yield();
}

void resume(Thread& thread) {
    current = &thread;
    if (_setjmp(scheduler)) return;
    if (thread.begun) _longjmp(thread.jump, 1);
    thread.begun = true;
    setcontext(&thread.context);
}

void run_block() {
    warps.assign((threads + 31) / 32, {});
    block_barrier = {};
    std::vector<Thread> all(threads);
    for (int number = 0; number < threads; number++) {
        Thread& thread = all[number];
        thread.index = {number, 0, 0};
        thread.stack.reset(new char[STACK]);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK;
        makecontext(&thread.context, enter, 0);
    }
    for (int left = threads; left;)
        for (Thread& thread : all) {
            if (thread.done) continue;
            resume(thread);
            left -= thread.done;
        }
}

template <class... A, size_t... I>
std::function<void()> bound(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    return [=] { kernel(*static_cast<A*>(arguments[I])...); };
}

template <class... A>
std::function<std::function<void()>(void**)> named(void (*kernel)(A...)) {
    return [=](void** arguments) { return bound(kernel, arguments, std::index_sequence_for<A...>()); };
}

const std::map<std::string, std::function<std::function<void()>(void**)>> kernels = {
    {"embed", named(embed)},
#if MODERN
    {"normalize", named(normalize)},
    {"rotary_keys", named(rotary_keys)},
    {"attend_window", named(attend_window)},
    {"gate", named(gate)},
    {"mean", named(mean)},
#else
    {"add_normalize", named(add_normalize)},
#endif
    {"attend", named(attend)},
    {"gather_first", named(gather_first)},
    {"attend_first", named(attend_first)},
    {"classify", named(classify)},
};

}  // namespace

extern "C" void launch(const char* name, int blocks, int layers, int block_threads, void** arguments) {
    body = kernels.at(name)(arguments);
    threads = block_threads;
    for (int y = 0; y < layers; y++)
        for (int x = 0; x < blocks; x++) {
            blockIdx = {x, y, 0};
            run_block();
        }
}

extern "C" int emulated_half(float value) { return to_half(value); }
extern "C" float emulated_float(int bits) { return to_float(bits); }
