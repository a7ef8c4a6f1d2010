// Threads that compute one batch together.

#pragma once

#include <barrier>
#include <functional>
#include <thread>
#include <vector>

namespace crossrt {

// The thread that asks is member 0; the others sleep until it does. One thread may ask at a time.
class Team {
public:
    const int members;

    explicit Team(int members) : members(members), barrier(members) {
        try {
            for (int member = 1; member < members; member++) threads.emplace_back([this, member] { serve(member); });
        } catch (...) {
            for (int missing = int(threads.size()) + 1; missing < members; missing++) barrier.arrive_and_drop();
            stop();
            throw;
        }
    }
    Team(const Team&) = delete;
    ~Team() { stop(); }

    // Every member calls `work(member)`; returns when all have.
    void run(const std::function<void(int)>& work) {
        task = &work;
        wait();
        work(0);
        wait();
    }

    // For members at work: until all have come here.
    void wait() {
        if (members > 1) barrier.arrive_and_wait();
    }

private:
    void serve(int member) {
        for (wait(); task; wait()) {
            (*task)(member);
            wait();
        }
    }

    void stop() {
        task = nullptr;
        wait();
        for (std::thread& each : threads) each.join();
    }

    std::barrier<> barrier;
    const std::function<void(int)>* task = nullptr;
    std::vector<std::thread> threads;
};

}  // namespace crossrt
