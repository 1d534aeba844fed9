#include "trainer/run/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <iostream>
#include <mutex>
#include <ostream>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "core/clock.h"
#include "core/text.h"
#include "trainer/run/launcher_terminal.h"

namespace lockstep {
namespace {

constexpr double rate_window_seconds = 1;
constexpr std::size_t widest_bar = 30;
constexpr std::size_t narrowest_bar = 8;

/// Text of bounded length that needs no memory from the heap; what does not fit is cut off.
class Line {
 public:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    const auto room = buffer_.size() - size_;
    const auto end = fmt::format_to_n(buffer_.data() + size_, room, format, std::forward<Args>(args)...);
    size_ += std::min(end.size, room);
  }
  void fill(char c, std::size_t n) {
    n = std::min(n, buffer_.size() - size_);
    std::fill_n(buffer_.begin() + static_cast<std::ptrdiff_t>(size_), n, c);
    size_ += n;
  }
  std::size_t size() const { return size_; }
  std::string_view text() const { return {buffer_.data(), size_}; }
  std::string_view text(std::size_t most) const { return {buffer_.data(), std::min(size_, most)}; }

 private:
  std::array<char, 512> buffer_;
  std::size_t size_ = 0;
};

int terminal_columns(int terminal) {
  winsize size{};
  if (ioctl(terminal, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const auto stated = columns == nullptr ? std::nullopt : parse_int64(columns);
  return stated && *stated > 0 && *stated < 100000 ? static_cast<int>(*stated) : 80;
}

void add_epoch(Line& line, const ProgressState& state) {
  if (state.epochs > 0) {
    line.add("epoch {}/{}", state.epoch, state.epochs);
  } else {
    line.add("epoch {}", state.epoch);
  }
}

}  // namespace

/// A line every so many seconds in which the training has none to show, since one step takes longer.
class Progress::StillUnderWay {
 public:
  StillUnderWay(std::ostream& out, double seconds) : out_(out), seconds_(seconds), told_(steady_seconds()) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error&) {
      // What it tells is worth less than the training.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~StillUnderWay() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
  }
  /// What is under way from now on: a step, or `done` samples of `what`.
  void step(const ProgressState& state) {
    const std::lock_guard lock(mutex_);
    next_ = state;
    if (next_.epoch_steps > 0 && next_.epoch_step >= next_.epoch_steps) ++next_.epoch;
    next_step();
  }
  void samples(std::string_view what, std::int64_t done, std::int64_t all) {
    const std::lock_guard lock(mutex_);
    next_step();
    if (done >= all) return;
    line_ = {};
    line_.add("{} {}/{}, a batch", what, grouped_digits(done), grouped_digits(all));
  }
  void nothing() {
    const std::lock_guard lock(mutex_);
    next_ = {};
    line_ = {};
  }
  /// A line of somebody else on the same stream.
  void write(std::string_view line) {
    const std::lock_guard lock(mutex_);
    told_ = steady_seconds();
    out_ << line << '\n' << std::flush;
  }

 private:
  void next_step() {
    since_ = steady_seconds();
    line_ = {};
    if (next_.step >= next_.steps) return;
    add_epoch(line_, next_);
    line_.add(" step {}/{}", next_.step + 1, next_.steps);
  }
  void run() {
    // The watchdog takes a thread like the lanes that gets no cpu for a sign that the machine is crowded.
    const auto self = static_cast<id_t>(gettid());
    setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, self) + 1);
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      const double now = steady_seconds();
      const double due = std::max(told_, line_.size() > 0 ? since_ : now) + seconds_;
      if (now < due) {
        changed_.wait_for(lock, std::chrono::duration<double>(due - now));
        continue;
      }
      told_ = now;
      out_ << fmt::format("{} under way for {}\n", line_.text(), human_duration(now - since_)) << std::flush;
    }
  }

  std::ostream& out_;
  const double seconds_;
  std::mutex mutex_;  ///< guards what follows
  std::condition_variable changed_;
  ProgressState next_;  ///< the step that comes next, where one does
  Line line_;           ///< empty: nothing is under way
  double since_ = 0;
  double told_;
  bool stopping_ = false;
  std::thread thread_;
};

Progress::Options Progress::for_stderr() {
  Options options;
  options.results = &std::cout;
  const char* term = std::getenv("TERM");
  const bool draws = term != nullptr && std::string_view(term) != "dumb";
  int terminal = STDERR_FILENO;
  if (draws && isatty(STDERR_FILENO) != 1) {
    if (auto launcher = launcher_terminal()) {
      options.results_overtake = launcher->output_is_one;
      options.held = std::make_shared<FileDescriptor>(std::move(launcher->error));
      terminal = options.held->get();
    }
  }
  options.terminal = draws && isatty(terminal) == 1;
  const char* no_colour = std::getenv("NO_COLOR");  // https://no-color.org: any text but the empty one
  options.colour = options.terminal && (no_colour == nullptr || *no_colour == '\0');
  options.columns = [terminal] { return terminal_columns(terminal); };
  return options;
}

Progress::Progress(std::ostream& out, Options options) : out_(out), options_(std::move(options)) {
  const bool real = !options_.clock;
  if (real) options_.clock = steady_seconds;
  if (real && !options_.terminal) still_ = std::make_unique<StillUnderWay>(out_, options_.line_seconds);
  // The first line comes in time also where the first step takes long.
  last_draw_ = options_.clock();
}

Progress::~Progress() {
  still_.reset();
  clear();
}

void Progress::begin(const ProgressState& state) {
  if (still_) still_->step(state);
}

void Progress::end() {
  if (still_) still_->nothing();
  clear();
}

void Progress::clear() {
  resting_ = true;
  if (!drawn_) return;
  drawn_ = false;
  out_ << "\r\x1b[K" << std::flush;
}

void Progress::write_line(std::string_view line) {
  if (still_)
    still_->write(line);
  else
    out_ << line << '\n' << std::flush;
}

void Progress::message(std::string_view line) {
  clear();
  write_line(line);
}

void Progress::result(std::string_view line) {
  clear();
  if (options_.results == nullptr) return write_line(line);
  std::ostream& out = *options_.results;
  if (options_.terminal && options_.results_overtake) out << "\r\x1b[K";
  out << line << '\n' << std::flush;
}

bool Progress::is_time() {
  now_ = options_.clock();
  const double every = options_.terminal ? options_.redraw_seconds : options_.line_seconds;
  if (now_ - last_draw_ < every) return false;
  last_draw_ = now_;
  return true;
}

void Progress::work(std::string_view what, std::int64_t done, std::int64_t all) {
  resting_ = true;
  if (still_) still_->samples(what, done, all);
  if (done == 0 || !is_time()) return;
  Line line;
  line.add("{} {}/{}", what, grouped_digits(done), grouped_digits(all));
  if (options_.terminal) {
    const auto room = static_cast<std::size_t>(std::max(options_.columns() - 1, 1));
    out_ << '\r' << line.text(room) << "\x1b[K" << std::flush;
    drawn_ = true;
  } else {
    write_line(line.text());
  }
}

void Progress::measure(const ProgressState& state) {
  if (!started_) {
    started_ = true;
    start_ = now_;
    start_step_ = state.step;
    if (options_.terminal) last_draw_ = now_ - options_.redraw_seconds;
    resting_ = true;
  }
  if (resting_) {  // what came between two updates was no training: it does not count
    resting_ = false;
    rate_time_ = now_;
    rate_samples_ = state.samples;
    return;
  }
  const double seconds = now_ - rate_time_;
  if (seconds <= 0 || (seconds < rate_window_seconds && rate_ > 0)) return;
  const double rate = static_cast<double>(state.samples - rate_samples_) / seconds;
  if (seconds < rate_window_seconds) {
    first_rate_ = rate;  // shown until a whole window has passed
    return;
  }
  rate_ = rate_ > 0 ? 0.5 * (rate_ + rate) : rate;
  rate_time_ = now_;
  rate_samples_ = state.samples;
}

double Progress::samples_per_second() const {
  return rate_ > 0 ? rate_ : first_rate_;
}

double Progress::seconds_left(const ProgressState& state) const {
  const std::int64_t done = state.step - start_step_;
  if (done <= 0) return -1;
  return (now_ - start_) / static_cast<double>(done) *
         static_cast<double>(std::max<std::int64_t>(state.steps - state.step, 0));
}

void Progress::update(const ProgressState& state) {
  now_ = options_.clock();
  measure(state);
  if (still_) still_->step(state);
  // The bar of an epoch is seen to fill; a plain log has a line for the epoch itself.
  const bool epoch_ends = options_.terminal && state.epoch_step == state.epoch_steps;
  if (!is_time() && !epoch_ends) return;
  last_draw_ = now_;
  if (options_.terminal) {
    draw_bar(state);
  } else {
    draw_line(state);
  }
}

void Progress::draw_line(const ProgressState& state) {
  Line line;
  add_epoch(line, state);
  line.add(" step {}/{} loss {:.4f}", state.step, state.steps, state.loss);
  if (samples_per_second() > 0) line.add(" {} samples/s", grouped_digits(std::llround(samples_per_second())));
  if (seconds_left(state) > 0) line.add(" {} left", human_duration(seconds_left(state)));
  write_line(line.text());
}

void Progress::draw_bar(const ProgressState& state) {
  // The last column stays free: some terminals wrap when it is written.
  const auto room = static_cast<std::size_t>(std::max(options_.columns() - 1, 1));
  Line head, loss, rate, left;
  add_epoch(head, state);
  loss.add("  loss {:.4f}", state.loss);
  if (samples_per_second() > 0)
    rate.add("  {} samples/s", grouped_digits(std::llround(samples_per_second())));
  if (seconds_left(state) > 0) left.add("  {} left", human_duration(seconds_left(state)));

  const double part = state.epoch_steps > 0
                          ? static_cast<double>(state.epoch_step) / static_cast<double>(state.epoch_steps)
                          : 0;
  constexpr std::size_t frame = 8;  // " [" + "]" + " 100%"
  // What matters least goes first where the terminal is narrow: the rate, then the bar, then the time left.
  std::size_t needed = head.size() + loss.size() + left.size();
  const bool show_rate = needed + rate.size() + frame + narrowest_bar <= room;
  if (show_rate) needed += rate.size();
  const bool show_bar = needed + frame + narrowest_bar <= room;
  const bool show_left = needed <= room;

  Line line;
  line.add("{}", head.text());
  std::size_t invisible = 0;
  if (show_bar) {
    const std::size_t width = std::min(room - needed - frame, widest_bar);
    const auto filled = static_cast<std::size_t>(std::clamp(part, 0.0, 1.0) * static_cast<double>(width));
    line.add(" [");
    if (options_.colour) {
      line.add("\x1b[32m");
      invisible += 5;
    }
    line.fill('=', filled);
    if (filled < width) line.fill('>', 1);
    if (options_.colour) {
      line.add("\x1b[0m");
      invisible += 4;
    }
    line.fill(' ', filled < width ? width - filled - 1 : 0);
    line.add("] {:3.0f}%", std::floor(100 * part));
  }
  line.add("{}", loss.text());
  if (show_rate) line.add("{}", rate.text());
  if (show_left) line.add("{}", left.text());
  out_ << '\r' << line.text(room + invisible) << "\x1b[K" << std::flush;
  drawn_ = true;
}

}  // namespace lockstep
