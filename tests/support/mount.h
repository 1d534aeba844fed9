#pragma once

#include <cerrno>
#include <string>
#include <sys/mount.h>
#include <system_error>

namespace lockstep::test {

/// A small file system of its own on a folder, for tests of full and read-only disks. Needs root.
class TmpfsMount {
 public:
  /// `options` as of mount(8), e.g. "size=256k,nr_inodes=20". mounted() is false where mounting is not
  /// permitted.
  TmpfsMount(std::string folder, const std::string& options) : folder_(std::move(folder)) {
    mounted_ = mount("tmpfs", folder_.c_str(), "tmpfs", 0, options.c_str()) == 0;
    if (!mounted_) reason_ = std::generic_category().message(errno);
  }
  ~TmpfsMount() {
    if (mounted_) umount2(folder_.c_str(), MNT_DETACH);
  }
  TmpfsMount(const TmpfsMount&) = delete;
  TmpfsMount& operator=(const TmpfsMount&) = delete;

  bool mounted() const { return mounted_; }
  /// Why not.
  std::string reason() const { return "cannot mount a tmpfs: " + reason_; }
  void make_read_only() const {
    if (mount("tmpfs", folder_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
      throw std::system_error(errno, std::generic_category(), "remount " + folder_);
    }
  }

 private:
  std::string folder_;
  bool mounted_ = false;
  std::string reason_;
};

}  // namespace lockstep::test
