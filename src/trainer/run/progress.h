#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>

#include "core/file.h"

namespace lockstep {

/// Where the training stands.
struct ProgressState {
  std::int64_t epoch = 0;       ///< 1-based
  std::int64_t epochs = 0;      ///< 0: unknown
  std::int64_t step = 0;        ///< updates made, over the whole run
  std::int64_t steps = 0;       ///< where the run ends
  std::int64_t epoch_step = 0;  ///< updates made in this epoch: what the bar shows
  std::int64_t epoch_steps = 0;
  std::int64_t samples = 0;  ///< samples used since this process began to train
  double loss = 0;           ///< of the last step, or a mean the caller chose
};

/// How the training goes, for people: on a terminal a bar that is drawn anew in place, elsewhere a plain line
/// now and then. Results are lines of another stream, so that a pipe keeps them and nothing else. One rank
/// makes one; it knows nothing of ranks. update() allocates nothing. Methods are called by one thread;
/// without a terminal another one, of its own, tells that a step or a batch is still under way.
class Progress {
 public:
  struct Options {
    bool terminal = false;                             ///< draw a bar in place
    bool colour = false;                               ///< with ANSI colours
    std::function<int()> columns = [] { return 80; };  ///< width of the terminal, asked for at each drawing
    /// Seconds, rising; default: the steady clock. With another one there is no thread.
    std::function<double()> clock;
    std::ostream* results = nullptr;  ///< where results go; null: where the bar is
    /// Results reach the same terminal by another way, and may overtake the bar: they begin by clearing it.
    bool results_overtake = false;
    double redraw_seconds = 0.1;           ///< at most so often, on a terminal
    double line_seconds = 10;              ///< at most so often, elsewhere
    std::shared_ptr<FileDescriptor> held;  ///< the terminal, where it is not standard error
  };
  /// What suits standard error: a bar if it is a terminal, or goes to that of mpirun (and TERM is not
  /// "dumb"), colours unless NO_COLOR is set, and the width the terminal has, or COLUMNS. Results go to
  /// standard output.
  static Options for_stderr();

  /// `out` must outlive this object.
  Progress(std::ostream& out, Options options);
  /// Clears the bar, so that what follows begins on an empty line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Before the first step: from here on it is under way.
  void begin(const ProgressState& state);
  /// After every step. Draws when it is time; a bar also at the end of an epoch.
  void update(const ProgressState& state);
  /// A line of its own, above the bar.
  void message(std::string_view line);
  /// A line on the stream of results.
  void result(std::string_view line);
  /// Samples of something else than training, an evaluation. Draws when it is time, and not when none is
  /// done.
  void work(std::string_view what, std::int64_t done, std::int64_t all);
  /// Clears the bar. The time until the next update does not count in the rate: call it before an evaluation.
  void clear();
  /// No step and no batch is under way any more. Clears the bar.
  void end();

  /// Over the last seconds; 0: not known yet.
  double samples_per_second() const;
  /// At the pace of all steps so far, pauses included; negative: not known yet.
  double seconds_left(const ProgressState& state) const;

 private:
  class StillUnderWay;
  void write_line(std::string_view line);
  void draw_bar(const ProgressState& state);
  void draw_line(const ProgressState& state);
  bool is_time();
  void measure(const ProgressState& state);

  std::ostream& out_;
  Options options_;
  bool drawn_ = false;  // a bar stands on the current line
  bool started_ = false;
  bool resting_ = true;  // what comes before the next update is no training
  double now_ = 0;
  double start_ = 0;  // of the first update
  std::int64_t start_step_ = 0;
  double last_draw_ = 0;
  double rate_time_ = 0;  // where the window of the rate begins
  std::int64_t rate_samples_ = 0;
  double rate_ = 0;
  double first_rate_ = 0;                 // within the first window
  std::unique_ptr<StillUnderWay> still_;  // without a terminal
};

}  // namespace lockstep
