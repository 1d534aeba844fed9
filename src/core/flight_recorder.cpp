#include "core/flight_recorder.h"

#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <iterator>

#include "core/text.h"

namespace lockstep {
namespace {

struct Kind {
  const char* name;
  bool waits;
  bool counted;
  int patience;
};

/// Disks and compilers may be slow without being stuck.
constexpr int long_patience = 10;

constexpr Kind kinds[] = {
    {"between phases", false, false, 1},                   // nothing
    {"start-up", false, false, long_patience},             // start
    {"opening the data", false, false, long_patience},     // load_data
    {"compiling the model", false, false, long_patience},  // compile
    {"training", false, false, 1},                         // train
    {"loading a batch", false, false, 1},                  // load
    {"forward and backward", false, false, 1},             // compute
    {"the optimizer", false, false, 1},                    // optimizer
    {"evaluation", false, false, 1},                       // evaluate
    {"saving", false, false, long_patience},               // save
    {"writing results", false, false, 0},                  // output
    {"the end of the run", false, false, long_patience},   // end
    {"MPI_Init", true, false, 1},                          // mpi_init
    {"a message", true, false, 1},
    {"freeing a shared window", true, false, 1},    // free_window
                                                    // message
    {"the rendezvous", true, true, 1},              // rendezvous
    {"a barrier", true, true, 1},                   // barrier
    {"a broadcast", true, true, 1},                 // broadcast
    {"an all-gather", true, true, 1},               // all_gather
    {"an all-reduce", true, true, 1},               // all_reduce
    {"making a shared window", true, true, 1},      // shared_window
    {"the beginning", true, true, 1},               // begin_step
    {"the gradient exchange", true, true, 1},       // exchange
    {"the exchange of parameters", true, true, 1},  // gather_parameters
    {"MPI_Finalize", true, true, 1},                // finalize
};
static_assert(std::size(kinds) == static_cast<std::size_t>(Activity::finalize) + 1);

/// Memory of another process may hold anything.
const Kind& kind_of(Activity activity) {
  const auto i = static_cast<std::size_t>(activity);
  return kinds[i < std::size(kinds) ? i : 0];
}

}  // namespace

const char* name_of(Activity activity) {
  return kind_of(activity).name;
}

bool waits(Activity activity) {
  return kind_of(activity).waits;
}

bool counted(Activity activity) {
  return kind_of(activity).counted;
}

int patience_of(Activity activity) {
  return kind_of(activity).patience;
}

std::string describe(const FlightEvent& e) {
  std::string text;
  if (e.activity == Activity::exchange && e.bucket >= 0) {
    text = fmt::format("bucket {}", e.bucket);
  } else {
    text = name_of(e.activity);
    if (e.bytes > 0) text += " of " + human_bytes(e.bytes);
    if (e.bucket >= 0) text += fmt::format(", bucket {}", e.bucket);
  }
  if (e.step < 0) return text;
  const bool of_step = e.activity == Activity::begin_step || e.activity == Activity::exchange ||
                       e.activity == Activity::gather_parameters || e.activity == Activity::compute ||
                       e.activity == Activity::optimizer;
  return text + fmt::format("{} step {}", of_step ? " of" : ", at", e.step);
}

std::string describe(const CollectiveProgress& progress) {
  if (!progress.inside())
    return fmt::format("{} collective{} done on the device", progress.left, progress.left == 1 ? "" : "s");
  return fmt::format("collective {} on the device{}", progress.entered,
                     progress.bucket < 0 ? "" : fmt::format(" (bucket {})", progress.bucket));
}

void FlightCell::write(const FlightEvent& e) noexcept {
  const std::uint64_t version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  // Released one by one: a reader that sees a new word sees the odd version when it looks again. (A fence
  // would do, but thread sanitizers do not know fences.)
  const std::uint64_t words[] = {e.number,
                                 static_cast<std::uint64_t>(e.activity),
                                 static_cast<std::uint64_t>(e.step),
                                 static_cast<std::uint64_t>(e.bucket),
                                 e.bytes,
                                 e.call,
                                 static_cast<std::uint64_t>(e.begin_ns),
                                 static_cast<std::uint64_t>(e.end_ns)};
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i].store(words[i], std::memory_order_release);
  version_.store(version + 2, std::memory_order_release);
}

FlightEvent FlightCell::read() const noexcept {
  for (int attempt = 0; attempt < 8; ++attempt) {
    const std::uint64_t before = version_.load(std::memory_order_acquire);
    if (before % 2 != 0) continue;
    std::uint64_t w[8];
    for (std::size_t i = 0; i < words_.size(); ++i) w[i] = words_[i].load(std::memory_order_acquire);
    if (version_.load(std::memory_order_relaxed) != before) continue;
    return {w[0],
            static_cast<Activity>(w[1]),
            static_cast<std::int64_t>(w[2]),
            static_cast<std::int64_t>(w[3]),
            w[4],
            w[5],
            static_cast<std::int64_t>(w[6]),
            static_cast<std::int64_t>(w[7])};
  }
  return {};
}

std::vector<FlightEvent> events_of(const FlightSlot& slot, std::size_t most) {
  const std::uint64_t last = slot.written.load(std::memory_order_acquire);
  const std::uint64_t n = std::min<std::uint64_t>({last, most, FlightSlot::events});
  std::vector<FlightEvent> events;
  for (std::uint64_t number = last - n + 1; number <= last; ++number) {
    const FlightEvent e = slot.ring[number % FlightSlot::events].read();
    if (e.number == number) events.push_back(e);
  }
  return events;
}

CollectiveProgress device_of(const FlightSlot& slot) {
  // `left` first: it then never shows more than what had been entered.
  CollectiveProgress progress;
  progress.left = slot.device_left.load(std::memory_order_acquire);
  progress.entered = slot.device_entered.load(std::memory_order_acquire);
  progress.bucket = slot.device_bucket.load(std::memory_order_relaxed);
  return progress;
}

std::vector<FlightEvent> calls_of(const FlightSlot& slot) {
  std::vector<FlightEvent> calls;
  for (const FlightCell& cell : slot.last_calls) {
    const FlightEvent e = cell.read();
    if (e.call > 0) calls.push_back(e);
  }
  std::sort(calls.begin(), calls.end(),
            [](const FlightEvent& a, const FlightEvent& b) { return a.call < b.call; });
  return calls;
}

FlightRecorder::FlightRecorder(FlightSlot& slot) : slot_(slot) {
  show();
}

std::int64_t FlightRecorder::now() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::uint64_t FlightRecorder::append(FlightEvent& event) noexcept {
  event.number = slot_.written.fetch_add(1, std::memory_order_acq_rel) + 1;
  slot_.ring[event.number % FlightSlot::events].write(event);
  tick();
  return event.number;
}

void FlightRecorder::show() noexcept {
  const std::size_t shown = std::min(depth_, open_.size());
  if (shown == 0) {
    slot_.patience.store(patience_of(Activity::nothing), std::memory_order_relaxed);
    slot_.now.write({});
    return;
  }
  const Open& innermost = open_[shown - 1];
  slot_.patience.store(innermost.patience, std::memory_order_relaxed);
  slot_.now.write(innermost.event);
}

void FlightRecorder::begin(Activity activity, std::uint64_t bytes, std::int64_t bucket) noexcept {
  if (!mine() || depth_++ >= open_.size()) return;
  Open& o = open_[depth_ - 1];
  o.event = {};
  o.event.activity = activity;
  o.event.step = step_.load(std::memory_order_relaxed);
  o.event.bucket = bucket;
  o.event.bytes = bytes;
  o.event.begin_ns = now();
  if (counted(activity)) o.event.call = ++calls_;
  // Work inside a patient phase is as patient as that, but who waits only waits.
  o.patience = patience_of(activity);
  if (!waits(activity) && depth_ > 1 && o.patience != 0) {
    const int outer = open_[depth_ - 2].patience;
    const Activity phase = open_[depth_ - 2].event.activity;
    if (phase != Activity::start) o.patience = outer == 0 ? 0 : std::max(outer, o.patience);
  }
  append(o.event);
  if (o.event.call > 0) slot_.last_calls[o.event.call % FlightSlot::calls].write(o.event);
  show();
}

void FlightRecorder::end() noexcept {
  if (!mine() || depth_ == 0 || depth_-- > open_.size()) return;
  FlightEvent& event = open_[depth_].event;
  event.end_ns = now();
  // Unless so much has happened inside that its place was taken.
  if (slot_.written.load(std::memory_order_relaxed) < event.number + FlightSlot::events)
    slot_.ring[event.number % FlightSlot::events].write(event);
  if (event.call > 0 && calls_ < event.call + FlightSlot::calls)
    slot_.last_calls[event.call % FlightSlot::calls].write(event);
  tick();
  show();
}

void FlightRecorder::set_step(std::int64_t step) noexcept {
  if (mine()) step_.store(step, std::memory_order_relaxed);
}

void FlightRecorder::at_bucket(std::int64_t bucket) noexcept {
  if (!mine() || depth_ == 0 || depth_ > open_.size()) return;
  FlightEvent& event = open_[depth_ - 1].event;
  if (event.bucket == bucket) return;
  event.bucket = bucket;
  tick();
  slot_.now.write(event);
}

void FlightRecorder::note(Activity activity, std::int64_t step, std::int64_t bucket, std::uint64_t bytes,
                          std::int64_t begin_ns) noexcept {
  FlightEvent event{0, activity, step, bucket, bytes, 0, begin_ns, now()};
  append(event);
}

void FlightRecorder::watch_device(std::function<CollectiveProgress()> ask) {
  const std::lock_guard lock(device_mutex_);
  ask_device_ = std::move(ask);
  slot_.device_entered.store(0, std::memory_order_release);
  slot_.device_left.store(0, std::memory_order_release);
  slot_.device_bucket.store(-1, std::memory_order_relaxed);
}

void FlightRecorder::look_at_device() {
  const std::lock_guard lock(device_mutex_);
  if (!ask_device_) return;
  const CollectiveProgress now = ask_device_();
  if (now == device_of(slot_)) return;
  slot_.device_bucket.store(now.bucket, std::memory_order_relaxed);
  slot_.device_entered.store(now.entered, std::memory_order_release);
  slot_.device_left.store(now.left, std::memory_order_release);
  tick();
}

}  // namespace lockstep
