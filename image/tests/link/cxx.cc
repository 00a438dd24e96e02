// Static constructors, exceptions through library frames, threads, thread-local variables.
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Announced {
    Announced() { std::cout << "constructed\n"; }
    ~Announced() { std::cout << "destroyed\n"; }
} announced;

thread_local int own = 5;

int main()
{
    std::vector<int> numbers{3, 1, 2};
    std::map<std::string, int> map{{"a", 1}};
    try {
        numbers.at(10);
    } catch (const std::out_of_range &error) {
        std::cout << "caught " << error.what() << "\n";
    }
    try {
        throw std::runtime_error("thrown here");
    } catch (const std::exception &error) {
        std::cout << "caught " << error.what() << "\n";
    }
    std::thread other([] { std::cout << "thread " << ++own << "\n"; });
    other.join();
    std::cout << own << " " << map.size() << std::endl;
}
