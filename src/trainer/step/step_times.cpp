#include "trainer/step/step_times.h"

#include <algorithm>

namespace lockstep {
namespace {

constexpr double StepTimes::*parts[] = {&StepTimes::step, &StepTimes::load, &StepTimes::compute,
                                        &StepTimes::wait};

}  // namespace

StepTimesLog::StepTimesLog(std::size_t capacity) : capacity_(std::max<std::size_t>(capacity, 1)) {
  window_.reserve(capacity_);
  scratch_.reserve(capacity_);
}

void StepTimesLog::add(const StepTimes& times) {
  if (window_.empty()) oldest_ = 0;
  if (window_.size() < capacity_) {
    window_.push_back(times);
  } else {
    window_[oldest_] = times;
    oldest_ = (oldest_ + 1) % capacity_;
  }
  for (const auto part : parts) sum_.*part += times.*part;
  ++steps_;
}

double StepTimesLog::median_of(double StepTimes::*part) {
  if (window_.empty()) return 0;
  scratch_.clear();
  for (const StepTimes& t : window_) scratch_.push_back(t.*part);
  const auto middle = scratch_.begin() + static_cast<std::ptrdiff_t>(scratch_.size() / 2);
  std::nth_element(scratch_.begin(), middle, scratch_.end());
  return *middle;
}

RankTimes StepTimesLog::summary() {
  RankTimes mine;
  mine.steps = static_cast<double>(steps_);
  mine.sum = sum_;
  mine.window = static_cast<double>(window_.size());
  for (const auto part : parts) mine.median.*part = median_of(part);
  return mine;
}

}  // namespace lockstep
