#pragma once

#include <memory>
#include <utility>

namespace lockstep::cuda {

/// Keeps a place that names an object true: null again when the object ends, unless another has taken the
/// place.
template <class T>
class Standing {
 public:
  Standing() = default;
  ~Standing() {
    if (place_ && *place_ == self_) *place_ = nullptr;
  }
  Standing(const Standing&) = delete;
  Standing& operator=(const Standing&) = delete;
  /// Once. From now on *place is `self`.
  void take(std::shared_ptr<T*> place, T* self) {
    place_ = std::move(place);
    self_ = self;
    *place_ = self;
  }

 private:
  std::shared_ptr<T*> place_;
  T* self_ = nullptr;
};

}  // namespace lockstep::cuda
