// Threads that throw and catch, count under a mutex, and are waited for by a condition.
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static std::mutex lock;
static std::condition_variable done;
static int caught, ended;

static void work(int thread)
{
    thread_local int own = 0;
    for (int i = 0; i < 10000; i++) {
        try {
            throw std::runtime_error(std::to_string(thread));
        } catch (const std::exception &error) {
            own += std::stoi(error.what()) == thread;
        }
    }
    std::lock_guard<std::mutex> guard(lock);
    caught += own;
    ended++;
    done.notify_one();
}

int main()
{
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++)
        threads.emplace_back(work, i);
    {
        std::unique_lock<std::mutex> guard(lock);
        done.wait(guard, [] { return ended == 4; });
    }
    for (auto &thread : threads)
        thread.join();
    std::cout << ended << " threads, " << caught << " exceptions" << std::endl;
}
