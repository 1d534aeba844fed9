#include "trainer/checkpoint/background_thread.h"

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "core/error.h"
#include "device/lane_pool.h"

namespace lockstep {
namespace {

// Its cpu time is taken from the lanes, which wait for each other; a low priority lets it use what they
// leave.
constexpr int background_niceness = 10;

void fit_thread(const std::vector<int>& cpus) {
  // Neither refusal is a failure: where and when a thread runs changes no bit.
  if (!cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) {
      if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    }
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  }
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), background_niceness);  // of this thread, on Linux
  prepare_compute_thread();
}

}  // namespace

struct BackgroundThread::State {
  std::vector<int> cpus;
  std::mutex mutex;
  std::condition_variable changed;
  std::function<void()> job;
  std::atomic<bool> idle{true};
  bool stopping = false;
  std::string failure;
  std::thread thread;

  void run() {
    fit_thread(cpus);
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return stopping || job; });
      if (!job) return;
      std::function<void()> mine = std::exchange(job, nullptr);
      lock.unlock();
      std::string text;
      try {
        mine();
      } catch (const std::exception& e) {
        text = *e.what() != '\0' ? e.what() : "an error without a text";
      }
      mine = nullptr;
      lock.lock();
      failure = std::move(text);
      idle.store(true, std::memory_order_release);
    }
  }
};

BackgroundThread::BackgroundThread(std::vector<int> cpus) : state_(std::make_unique<State>()) {
  state_->cpus = std::move(cpus);
}

BackgroundThread::~BackgroundThread() {
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_one();
  state_->thread.join();
}

void BackgroundThread::start(std::function<void()> job) {
  require(idle(), "a job was started while another one runs");
  if (!state_->thread.joinable()) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    state_->thread = std::thread([state = state_.get()] { state->run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->job = std::move(job);
    state_->failure.clear();
    state_->idle.store(false, std::memory_order_relaxed);
  }
  state_->changed.notify_one();
}

bool BackgroundThread::idle() const noexcept {
  return state_->idle.load(std::memory_order_acquire);
}

const std::string& BackgroundThread::failure() const {
  require(idle(), "a job is under way");
  return state_->failure;
}

}  // namespace lockstep
