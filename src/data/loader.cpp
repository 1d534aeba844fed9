#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/flight_recorder.h"
#include "device/lane_pool.h"
#include "device/memory.h"

namespace lockstep {

namespace {

/// Signals are for the main thread: its waits must be the ones that are interrupted.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

/// Lets the calling thread run on `cpus`. A refusal is no failure: where a thread runs changes no bit.
void allow_cpus(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  }
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/// The memory of one batch of this rank.
struct Buffer {
  enum class Use { free, filling, ready, held };
  Use use = Use::free;
  std::exception_ptr error;
  HostBuffer inputs;                  // per slice (rows, elements), each slice aligned
  std::vector<std::int64_t> samples;  // (slices, rows)
  std::vector<std::int32_t> labels;   // (slices, rows)
  std::vector<float> targets;         // (slices, rows, width)
  std::vector<ImageMove> moves;       // (slices, rows), where the device augments
  std::vector<float> scratch;         // one sample, where the loader augments
  std::vector<SliceBatch> slices;
  LoadedBatch batch;
};

}  // namespace

struct Loader::State {
  State(const EpochOrder& order_in, LoaderOptions options_in)
      : order(order_in),
        options(std::move(options_in)),
        reader(*options.data, options.normalizer),
        elements(static_cast<std::size_t>(options.data->sample_shape().elements())),
        rows(static_cast<std::size_t>(order.rows_per_slice())),
        width(options.answers ? static_cast<std::size_t>(options.data->target_width()) : 0),
        stride(align_up(rows * elements * sizeof(float), buffer_alignment) / sizeof(float)),
        with_labels(options.answers && options.data->has_labels()),
        augments(options.augmentation.any()),
        gives_moves(augments && options.device_augments),
        padding(gives_moves ? reader.padding() : std::vector<float>{}),
        position(options.position),
        // One buffer is computed on, one is ready, and each worker fills one.
        buffers(options.workers == 0 ? 1 : static_cast<std::size_t>(options.workers) + 2) {
    require(order.samples() == options.data->size(), "an epoch order of another data set");
    require(options.mine.begin >= 0 && options.mine.begin <= options.mine.end &&
                options.mine.end <= order.slices(),
            "slices outside the global batch");
    require(options.position >= 0, "a data position is negative");
    if (augments) {
      const Shape& shape = options.data->sample_shape();
      require(shape.rank() == 3, "only images can be augmented");
      const std::int64_t padding_pixels = options.augmentation.crop_padding;
      require(padding_pixels >= 0 && padding_pixels < std::min(shape[1], shape[2]),
              "a crop could lie wholly outside its image");
    }
    for (Buffer& b : buffers) prepare(b);
  }

  void prepare(Buffer& b) const {
    const auto count = static_cast<std::size_t>(options.mine.size());
    if (count > 0) b.inputs = HostBuffer(count * stride * sizeof(float));
    b.samples.resize(count * rows);
    if (with_labels) b.labels.resize(count * rows);
    b.targets.resize(count * rows * width);
    if (gives_moves) b.moves.resize(count * rows);
    if (augments && !gives_moves) b.scratch.resize(elements);
    b.slices.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      SliceBatch& s = b.slices[i];
      s.slice = options.mine.begin + static_cast<std::int64_t>(i);
      s.rows = static_cast<std::int64_t>(rows);
      s.input = b.inputs.as<float>().subspan(i * stride, rows * elements);
      s.samples = std::span(b.samples).subspan(i * rows, rows);
      if (with_labels) s.labels = std::span(b.labels).subspan(i * rows, rows);
      if (gives_moves) {
        s.moves = std::span(b.moves).subspan(i * rows, rows);
        s.padding = padding;
      }
      if (width > 0) s.targets = std::span(b.targets).subspan(i * rows * width, rows * width);
    }
    b.batch.slices = b.slices;
  }

  /// Loads the batch `range` into `b`. Touches nothing else that changes.
  void fill(Buffer& b, const BatchRange& range) const {
    const EpochOrder::Epoch epoch = order.epoch(range.epoch);
    const PhiloxKey key = augmentation_key(options.augmentation, range.epoch);
    b.batch.range = range;
    for (std::size_t i = 0; i < b.slices.size(); ++i) {
      SliceBatch& s = b.slices[i];
      const SliceRows place = order.rows_of(range, s.slice);
      s.valid = place.valid;
      const auto valid = static_cast<std::size_t>(place.valid);
      const std::span<float> inputs = b.inputs.as<float>().subspan(i * stride, rows * elements);
      const std::span<float> targets = std::span(b.targets).subspan(i * rows * width, rows * width);
      const std::size_t first_row = i * rows;
      for (std::size_t row = 0; row < valid; ++row) {
        const std::int64_t sample = epoch.sample(range.first + place.first + static_cast<std::int64_t>(row));
        b.samples[first_row + row] = sample;
        if (options.recorder != nullptr) options.recorder->tick();
        const std::span<float> input = inputs.subspan(row * elements, elements);
        if (!augments) {
          reader.read(sample, input);
        } else if (const ImageMove move = image_move(options.augmentation, key, sample); gives_moves) {
          b.moves[first_row + row] = move;
          reader.read(sample, input);
        } else {
          reader.read(sample, move, b.scratch, input);
        }
        if (with_labels) b.labels[first_row + row] = options.data->label(sample);
        if (width > 0) reader.read_target(sample, targets.subspan(row * width, width));
      }
      std::fill(inputs.begin() + static_cast<std::ptrdiff_t>(valid * elements), inputs.end(), 0.0f);
      std::fill(targets.begin() + static_cast<std::ptrdiff_t>(valid * width), targets.end(), 0.0f);
      for (std::size_t row = valid; row < rows; ++row) {
        b.samples[first_row + row] = -1;
        if (with_labels) b.labels[first_row + row] = 0;
        if (gives_moves) b.moves[first_row + row] = {};
      }
    }
  }

  /// The range of the next batch to load; moves on.
  BatchRange take_range() {
    const BatchRange range = order.batch_at(position);
    position = range.next();
    return range;
  }

  void work() {
    allow_cpus(options.cpus);
    prepare_compute_thread();
    std::unique_lock lock(mutex);
    while (true) {
      freed.wait(lock,
                 [this] { return stopping || buffers[taken % buffers.size()].use == Buffer::Use::free; });
      if (stopping) return;
      Buffer& b = buffers[taken++ % buffers.size()];
      b.use = Buffer::Use::filling;
      const BatchRange range = take_range();
      lock.unlock();
      try {
        fill(b, range);
      } catch (...) {
        b.error = std::current_exception();
      }
      lock.lock();
      b.use = Buffer::Use::ready;
      filled.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    freed.notify_all();
    for (std::thread& t : threads) t.join();
    threads.clear();
  }

  const EpochOrder order;
  const LoaderOptions options;
  const NormalizedReader reader;
  const std::size_t elements;
  const std::size_t rows;
  const std::size_t width;   // of targets; 0 without
  const std::size_t stride;  // floats from slice to slice
  const bool with_labels;
  const bool augments;
  const bool gives_moves;  // instead of moved images
  const std::vector<float> padding;

  std::mutex mutex;  // guards what follows, except the content of a buffer that is being filled or held
  std::condition_variable freed;
  std::condition_variable filled;
  std::int64_t position;    // of the next batch to load
  std::uint64_t taken = 0;  // batches that workers have begun
  std::uint64_t given = 0;  // batches that next() has returned
  bool stopping = false;
  std::vector<Buffer> buffers;
  std::vector<std::thread> threads;
};

Loader::Loader(const EpochOrder& order, LoaderOptions options) {
  require(options.data != nullptr, "a loader needs data");
  state_ = std::make_unique<State>(order, std::move(options));
  const SignalsBlocked blocked;
  try {
    for (int i = 0; i < state_->options.workers; ++i) {
      state_->threads.emplace_back([s = state_.get()] { s->work(); });
    }
  } catch (...) {
    state_->stop();
    throw;
  }
}

Loader::~Loader() {
  state_->stop();
}

const EpochOrder& Loader::order() const noexcept {
  return state_->order;
}

const LoadedBatch& Loader::next() {
  State& s = *state_;
  const FlightScope scope(s.options.recorder, Activity::load);
  if (s.threads.empty()) {
    Buffer& b = s.buffers[0];
    if (b.error) std::rethrow_exception(b.error);
    try {
      s.fill(b, s.take_range());
    } catch (...) {
      b.error = std::current_exception();
      throw;
    }
    return b.batch;
  }
  std::unique_lock lock(s.mutex);
  if (s.given > 0) {
    Buffer& before = s.buffers[(s.given - 1) % s.buffers.size()];
    if (before.use == Buffer::Use::held) {
      before.use = Buffer::Use::free;
      s.freed.notify_one();
    }
  }
  Buffer& b = s.buffers[s.given % s.buffers.size()];
  s.filled.wait(lock, [&b] { return b.use == Buffer::Use::ready; });
  if (b.error) std::rethrow_exception(b.error);
  b.use = Buffer::Use::held;
  ++s.given;
  return b.batch;
}

}  // namespace lockstep
