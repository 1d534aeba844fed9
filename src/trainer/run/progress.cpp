#include "trainer/run/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fmt/format.h>
#include <iostream>
#include <ostream>
#include <sys/ioctl.h>
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
  if (!options_.clock) options_.clock = steady_seconds;
  // The first line comes in time also where the first step takes long.
  last_draw_ = options_.clock();
}

Progress::~Progress() {
  clear();
}

void Progress::clear() {
  resting_ = true;
  if (!drawn_) return;
  drawn_ = false;
  out_ << "\r\x1b[K" << std::flush;
}

void Progress::message(std::string_view line) {
  clear();
  out_ << line << '\n' << std::flush;
}

void Progress::result(std::string_view line) {
  clear();
  std::ostream& out = options_.results == nullptr ? out_ : *options_.results;
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
  if (!is_time()) return;
  Line line;
  line.add("{} {}/{}", what, grouped_digits(done), grouped_digits(all));
  if (options_.terminal) {
    const auto room = static_cast<std::size_t>(std::max(options_.columns() - 1, 1));
    out_ << '\r' << line.text(room) << "\x1b[K" << std::flush;
    drawn_ = true;
  } else {
    out_ << line.text() << '\n' << std::flush;
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
  out_ << line.text() << '\n' << std::flush;
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
