#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#define LOSSLESS_FORKS 1
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace lossless {
namespace {

using Body = void (*)(void*, int64_t, int64_t);
using TorchParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
using TorchNumThreads = int32_t (*)(uint32_t*);

std::atomic<int> explicit_threads{0};
std::atomic<TorchParallelFor> torch_parallel_for{nullptr};
std::atomic<TorchNumThreads> torch_num_threads{nullptr};
thread_local bool inside = false;

int positive(const char* variable) {
    const char* text = std::getenv(variable);
    const long value = text ? std::strtol(text, nullptr, 10) : 0;
    return value > 0 && value < 4096 ? int(value) : 0;
}

int cores() {
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof(set), &set)) return CPU_COUNT(&set);
#endif
    const int n = int(std::thread::hardware_concurrency());
    return n > 0 ? n : 1;
}

int own_threads() {
    static const int threads = [] {
        if (const int n = positive("LOSSLESS_NUM_THREADS")) return n;
        if (const int n = positive("OMP_NUM_THREADS")) return n;
        return cores();
    }();
    return threads;
}

// Rounding and flush-to-zero modes: a worker computes as its caller would.
struct FloatMode {
#if defined(__x86_64__)
    unsigned control = __builtin_ia32_stmxcsr();
    void set() const { __builtin_ia32_ldmxcsr(control); }
#elif defined(__aarch64__)
    uint64_t control = read();
    static uint64_t read() {
        uint64_t word;
        __asm__ volatile("mrs %0, fpcr" : "=r"(word));
        return word;
    }
    void set() const { __asm__ volatile("msr fpcr, %0" : : "r"(control)); }
#else
    void set() const {}
#endif
};

// A parallel loop. Whoever claims chunks runs them; the caller waits only for chunks that were claimed, so a worker
// that wakes up late finds nothing to do and harms nobody.
struct Job {
    Job(Body b, void* c, int64_t n, int threads) : body(b), context(c), chunks(n), shares(8 * threads) {}
    const Body body;
    void* const context;
    const int64_t chunks, shares; // of what is left, of which a claim takes one
    const FloatMode mode;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;

    void work() {
        const FloatMode own;
        mode.set();
        inside = true;
        for (int64_t first = 0, count; (count = claim(first)) > 0;) {
            body(context, first, first + count);
            if (done.fetch_add(count) + count == chunks) {
                std::lock_guard<std::mutex> lock(mutex);
                finished.notify_all();
            }
        }
        inside = false;
        own.set();
    }
    int64_t claim(int64_t& first) {
        int64_t count = 0;
        first = next.load();
        do {
            if (first >= chunks) return 0;
            count = (chunks - first) / shares;
            if (count < 1) count = 1;
        } while (!next.compare_exchange_weak(first, first + count));
        return count;
    }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        finished.wait(lock, [this] { return done.load() == chunks; });
    }
};

class Pool {
  public:
    void run(const std::shared_ptr<Job>& job, int helpers) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            while (threads < helpers) {
                try {
                    std::thread([this] { serve(); }).detach();
                } catch (...) { // no more threads to be had: the caller does the work
                    break;
                }
                threads++;
            }
            for (int i = 0; i < helpers; i++) jobs.push_back(job);
        }
        for (int i = 0; i < helpers; i++) available.notify_one();
        job->work();
        job->wait();
    }

  private:
    void serve() {
        for (;;) {
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(mutex);
                available.wait(lock, [this] { return !jobs.empty(); });
                job = std::move(jobs.back());
                jobs.pop_back();
            }
            job->work();
        }
    }
    std::mutex mutex;
    std::condition_variable available;
    std::vector<std::shared_ptr<Job>> jobs;
    int threads = 0;
};

// Never destroyed: its threads may outlive static destructors. A forked child, in which they do not exist, drops it and
// starts another when it needs one; nor does it use torch's pool, which does not survive a fork.
std::atomic<Pool*> pool{nullptr};

#if LOSSLESS_FORKS
void after_fork() {
    pool = nullptr;
    torch_parallel_for = nullptr;
    inside = false;
}
const int registered = pthread_atfork(nullptr, nullptr, after_fork);
#endif

Pool& own_pool() {
    Pool* current = pool.load();
    if (!current) {
        Pool* fresh = new Pool;
        if (pool.compare_exchange_strong(current, fresh))
            current = fresh;
        else
            delete fresh;
    }
    return *current;
}

} // namespace

void use_torch_threads(void* parallel, void* threads) {
    torch_parallel_for = reinterpret_cast<TorchParallelFor>(parallel);
    torch_num_threads = reinterpret_cast<TorchNumThreads>(threads);
}

void set_num_threads(int threads) { explicit_threads = threads; }

int get_num_threads() {
    if (const int n = explicit_threads.load()) return n;
    uint32_t n = 0;
    const TorchNumThreads torch = torch_num_threads.load();
    if (torch && torch(&n) == 0 && n > 0) return int(n);
    return own_threads();
}

void parallel_for(int64_t chunks, Body body, void* context) {
    const int threads = chunks < 2 || inside ? 1 : get_num_threads();
    if (threads < 2) {
        if (chunks > 0) body(context, 0, chunks);
        return;
    }
    auto job = std::make_shared<Job>(body, context, chunks, threads);
    const int64_t workers = threads < chunks ? threads : chunks;
    const TorchParallelFor torch = torch_parallel_for.load();
    const bool served = torch && torch(
                                     0, workers, 1,
                                     [](int64_t begin, int64_t end, void* shared) {
                                         for (int64_t i = begin; i < end; i++) static_cast<Job*>(shared)->work();
                                     },
                                     job.get()) == 0;
    if (!served) own_pool().run(job, int(workers) - 1);
}

} // namespace lossless
