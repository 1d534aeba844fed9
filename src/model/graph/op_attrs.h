#pragma once

#include <memory>
#include <utility>

namespace lockstep {

struct OpEntry;

/// The attributes of one op: a value of the struct that the op's header declares (model/ops/), and with it
/// the op's entry. Copies share the value, which never changes. A struct of attributes has
///   static const OpEntry& entry();
/// and is a plain aggregate; shapes in it are those of one sample, images are (channels, height, width).
class OpAttrs {
 public:
  /// No op: for containers.
  OpAttrs() = default;
  template <class Attrs>
  requires requires { Attrs::entry(); }
  OpAttrs(Attrs attrs) : entry_(&Attrs::entry()), value_(std::make_shared<const Attrs>(std::move(attrs))) {}

  /// The op. Not for OpAttrs().
  const OpEntry& entry() const { return *entry_; }
  /// Whether these are attributes of that type.
  template <class Attrs>
  bool is() const {
    return entry_ == &Attrs::entry();
  }
  /// The attributes, or null where they are of another type.
  template <class Attrs>
  const Attrs* get() const {
    return is<Attrs>() ? static_cast<const Attrs*>(value_.get()) : nullptr;
  }
  /// The attributes, whose type the caller knows: an op's own functions.
  template <class Attrs>
  const Attrs& as() const {
    return *static_cast<const Attrs*>(value_.get());
  }

 private:
  const OpEntry* entry_ = nullptr;
  std::shared_ptr<const void> value_;
};

}  // namespace lockstep
