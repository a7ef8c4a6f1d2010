// `ThreadTeam`: threads that compute one batch together.
//
// The calling thread is rank 0. The other threads are started with the team, and wait at a barrier between two batches.

#pragma once

#include <barrier>
#include <functional>
#include <thread>
#include <vector>

namespace crossrt {

// One thread at a time may call `run`.
class ThreadTeam {
public:
    const int size;

    // Throws system_error if the system starts no more threads.
    explicit ThreadTeam(int size) : size(size), barrier(size) {
        try {
            for (int rank = 1; rank < size; rank++) threads.emplace_back([this, rank] { serve(rank); });
        } catch (...) {
            // The threads that did start wait at the barrier for all threads, so the missing ones are removed from its count.
            for (int missing = int(threads.size()) + 1; missing < size; missing++) barrier.arrive_and_drop();
            stop();
            throw;
        }
    }
    ThreadTeam(const ThreadTeam&) = delete;
    ~ThreadTeam() { stop(); }

    // Calls `work(rank)` in every thread, and returns when all calls have returned.
    void run(const std::function<void(int)>& work) {
        task = &work;
        synchronize();
        work(0);
        synchronize();
    }

    // Waits until every thread has called this. Every thread must call it within `work`.
    void synchronize() {
        if (size > 1) barrier.arrive_and_wait();
    }

private:
    void serve(int rank) {
        for (synchronize(); task; synchronize()) {
            (*task)(rank);
            synchronize();
        }
    }

    void stop() {
        task = nullptr;
        synchronize();
        for (std::thread& thread : threads) thread.join();
    }

    std::barrier<> barrier;
    const std::function<void(int)>* task = nullptr;  // null tells the threads to end
    std::vector<std::thread> threads;
};

}  // namespace crossrt
