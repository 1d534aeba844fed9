#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <optional>
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

/// Signals are for the main thread: its waits must be the ones that are interrupted. Not those of a fault of
/// the thread itself: a page of a mapped file that is lost comes as one (GuardedMap).
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&all, fault);
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

/// Workers take samples, so many bytes of them at a time, so that a batch comes in as fast as all of them
/// are.
constexpr std::size_t unit_bytes = std::size_t{1} << 16;

/// One field of a batch of this rank.
struct FieldBuffer {
  HostBuffer numbers;                 // per slice (rows, elements), each slice aligned
  std::vector<std::int32_t> lengths;  // (slices, rows), of a ragged field
};

/// The memory of one batch of this rank.
struct Buffer {
  enum class Use { free, filling, ready, held };
  Use use = Use::free;
  std::exception_ptr error;
  std::size_t error_unit = 0;  // that met it
  std::size_t next_unit = 0;   // that nobody has begun
  std::size_t done_units = 0;
  std::optional<EpochOrder::Epoch> epoch;
  std::vector<FieldBuffer> fields;
  std::vector<std::int64_t> samples;  // (slices, rows)
  std::vector<FieldRows> views;       // (slices, fields)
  std::vector<Batch> slices;
  LoadedBatch batch;
};

}  // namespace

struct Loader::State {
  State(const EpochOrder& order_in, LoaderOptions options_in)
      : order(order_in),
        options(std::move(options_in)),
        rows(static_cast<std::size_t>(order.rows_per_slice())),
        position(options.position),
        // One buffer is computed on, one is ready, and the workers fill one together.
        buffers(options.workers == 0 ? 1 : 3),
        scratch(static_cast<std::size_t>(std::max(options.workers, 1))) {
    require(order.samples() == options.data->size(), "an epoch order of another data set");
    require(options.mine.begin >= 0 && options.mine.begin <= options.mine.end &&
                options.mine.end <= order.slices(),
            "slices outside the global batch");
    require(options.position >= 0, "a data position is negative");
    std::size_t row = 1, most = 0;
    for (const auto& reader : options.fields) {
      if (reader == nullptr) continue;
      row += reader->field().bytes();
      most = std::max(most, reader->scratch_bytes());
    }
    unit_rows = std::clamp<std::size_t>(unit_bytes / row, 1, std::max<std::size_t>(rows, 1));
    for (auto& one : scratch) one.resize(most);
    for (Buffer& b : buffers) prepare(b);
  }

  /// Bytes of one field of a slice, and from slice to slice.
  std::size_t bytes_of(const FieldReader& reader) const { return rows * reader.field().bytes(); }
  std::size_t stride_of(const FieldReader& reader) const {
    return align_up(bytes_of(reader), buffer_alignment);
  }

  void prepare(Buffer& b) const {
    const auto count = static_cast<std::size_t>(options.mine.size());
    const std::size_t fields = options.fields.size();
    b.samples.resize(count * rows);
    b.fields.resize(fields);
    b.views.resize(count * fields);
    b.slices.resize(count);
    for (std::size_t f = 0; f < fields; ++f) {
      if (options.fields[f] == nullptr) continue;
      const FieldReader& reader = *options.fields[f];
      if (count > 0) b.fields[f].numbers = HostBuffer(count * stride_of(reader));
      if (reader.field().ragged) b.fields[f].lengths.resize(count * rows);
      for (std::size_t i = 0; i < count; ++i) {
        FieldRows& view = b.views[i * fields + f];
        view.type = reader.field().type;
        view.data = slice_of(b, f, i);
        if (reader.field().ragged) view.lengths = std::span(b.fields[f].lengths).subspan(i * rows, rows);
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      Batch& s = b.slices[i];
      s.slice = options.mine.begin + static_cast<std::int64_t>(i);
      s.rows = static_cast<std::int64_t>(rows);
      s.samples = std::span(b.samples).subspan(i * rows, rows);
      s.fields = std::span(b.views).subspan(i * fields, fields);
    }
    b.batch.slices = b.slices;
  }

  /// Bytes of a row of field f in a batch: of a ragged one as many positions as its class has.
  std::size_t row_bytes(std::size_t f, const BatchRange& range) const {
    const Field& field = options.fields[f]->field();
    const std::int64_t bound = order.class_bound(range.length_class);
    return field.ragged && bound > 0 ? static_cast<std::size_t>(bound) * field.entry_bytes() : field.bytes();
  }
  /// The memory of field f of the buffer's i-th slice.
  std::span<std::byte> slice_of(Buffer& b, std::size_t f, std::size_t i) const {
    const FieldReader& reader = *options.fields[f];
    return b.fields[f].numbers.as<std::byte>().subspan(i * stride_of(reader), bytes_of(reader));
  }

  /// Decides what `b` will hold. Under the mutex, before any of its units is loaded.
  void begin(Buffer& b) const {
    const BatchRange& range = b.batch.range;
    b.epoch.emplace(order.epoch(range.epoch));
    b.error = nullptr;
    b.next_unit = b.done_units = 0;
    b.batch.weight = static_cast<double>(range.count);
    if (options.weights != nullptr) {
      b.batch.weight = 0;
      for (std::int64_t i = 0; i < range.count; ++i)
        b.batch.weight += static_cast<double>(
            (*options.weights)[static_cast<std::size_t>(b.epoch->sample(range.first + i))]);
    }
    for (std::size_t i = 0; i < b.slices.size(); ++i) {
      Batch& s = b.slices[i];
      s.valid = order.rows_of(range, s.slice).valid;
      s.epoch = range.epoch;
      s.length_class = range.length_class;
      for (std::size_t f = 0; f < options.fields.size(); ++f)
        if (options.fields[f] != nullptr)
          b.views[i * options.fields.size() + f].data = slice_of(b, f, i).first(rows * row_bytes(f, range));
    }
  }

  std::size_t units_of_slice() const { return (rows + unit_rows - 1) / unit_rows; }
  std::size_t units() const { return static_cast<std::size_t>(options.mine.size()) * units_of_slice(); }

  /// Loads some rows of a slice of `b`. Touches nothing else that changes.
  void fill(Buffer& b, std::size_t unit, std::span<std::byte> scratch) const {
    const std::size_t i = unit / units_of_slice();
    const std::size_t first = unit % units_of_slice() * unit_rows, last = std::min(rows, first + unit_rows);
    const BatchRange& range = b.batch.range;
    const SliceRows place = order.rows_of(range, b.slices[i].slice);
    const std::size_t valid = std::clamp(static_cast<std::size_t>(place.valid), first, last);
    const std::span<std::int64_t> samples = std::span(b.samples).subspan(i * rows + first, last - first);
    for (std::size_t row = first; row < last; ++row)
      samples[row - first] =
          row < valid ? b.epoch->sample(range.first + place.first + static_cast<std::int64_t>(row)) : -1;
    for (std::size_t f = 0; f < options.fields.size(); ++f) {
      if (options.fields[f] == nullptr) continue;
      const FieldReader& reader = *options.fields[f];
      const std::size_t bytes = row_bytes(f, range);
      const std::span<std::byte> all = slice_of(b, f, i);
      std::vector<std::int32_t>& lengths = b.fields[f].lengths;
      for (std::size_t row = first; row < last; ++row) {
        const std::span<std::byte> out = all.subspan(row * bytes, bytes);
        std::int64_t length = 0;
        if (row < valid)
          length = reader.read({samples[row - first], range.epoch}, scratch, out);
        else
          std::fill(out.begin(), out.end(), std::byte{0});
        if (!lengths.empty()) lengths[i * rows + row] = static_cast<std::int32_t>(length);
        if (options.recorder != nullptr && row < valid) options.recorder->tick();
      }
    }
    options.data->check(samples);
  }

  /// The same; keeps the error of the first unit that has one, whichever thread comes upon it.
  void try_fill(Buffer& b, std::size_t unit, std::span<std::byte> scratch) {
    try {
      fill(b, unit, scratch);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (b.error && b.error_unit < unit) return;
      b.error = std::current_exception();
      b.error_unit = unit;
    }
  }

  /// The range of the next batch to load; moves on.
  BatchRange take_range() {
    const BatchRange range = order.batch_at(position);
    position = range.next();
    return range;
  }

  /// A buffer that has units left, the earliest batch first; null where there is none. Under the mutex.
  Buffer* find_work() {
    while (true) {
      Buffer& last = buffers[(begun + buffers.size() - 1) % buffers.size()];
      if (begun > 0 && last.use == Buffer::Use::filling && last.next_unit < units()) return &last;
      Buffer& b = buffers[begun % buffers.size()];
      if (b.use != Buffer::Use::free) return nullptr;
      ++begun;
      try {
        b.batch.range = take_range();
        begin(b);
      } catch (...) {
        b.error = std::current_exception();
        b.error_unit = 0;
        b.next_unit = units();
      }
      b.use = b.next_unit < units() ? Buffer::Use::filling : Buffer::Use::ready;
      if (b.use == Buffer::Use::ready) filled.notify_one();
    }
  }

  void work(std::span<std::byte> scratch) {
    allow_cpus(options.cpus);
    prepare_compute_thread();
    std::unique_lock lock(mutex);
    while (true) {
      Buffer* b = nullptr;
      freed.wait(lock, [&] { return stopping || (b = find_work()) != nullptr; });
      if (stopping) return;
      const std::size_t unit = b->next_unit++;
      lock.unlock();
      try_fill(*b, unit, scratch);
      lock.lock();
      if (++b->done_units < units()) continue;
      b->use = Buffer::Use::ready;
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
  const std::size_t rows;

  std::mutex mutex;  // guards what follows, except the content of a buffer that is being filled or held
  std::condition_variable freed;
  std::condition_variable filled;
  std::int64_t position;    // of the next batch to load
  std::uint64_t begun = 0;  // batches that workers have begun
  std::uint64_t given = 0;  // batches that next() has returned
  bool stopping = false;
  std::vector<Buffer> buffers;
  std::vector<std::vector<std::byte>> scratch;  // of each worker
  std::size_t unit_rows = 1;                    // what a worker takes at a time
  std::vector<std::thread> threads;
};

Loader::Loader(const EpochOrder& order, LoaderOptions options) {
  require(options.data != nullptr, "a loader needs data");
  state_ = std::make_unique<State>(order, std::move(options));
  const SignalsBlocked blocked;
  try {
    for (int i = 0; i < state_->options.workers; ++i) {
      state_->threads.emplace_back(
          [s = state_.get(), i] { s->work(s->scratch[static_cast<std::size_t>(i)]); });
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
      b.batch.range = s.take_range();
      s.begin(b);
      for (std::size_t unit = 0; unit < s.units(); ++unit) s.fill(b, unit, s.scratch[0]);
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
      s.freed.notify_all();
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
