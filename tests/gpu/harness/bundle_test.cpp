// What travels to a machine without a package archive: its size, and that its libraries stay out of the way
// of gcc's and Python's.

#include <sys/stat.h>

#include "gpu/harness/fake_machine.h"

namespace lockstep::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string scripts = std::string(LOCKSTEP_SOURCE_DIR) + "/tests/gpu/";

/// A file of so many bytes that takes none on the disk.
void make_file(const std::string& path, std::int64_t bytes) {
  fs::create_directories(fs::path(path).parent_path());
  write_file_bytes(path, "");
  fs::resize_file(path, static_cast<std::uintmax_t>(bytes));
}

ProcessResult shell(const std::string& text) {
  return run_process({"bash", "-c", text});
}

TEST(GpuTravelSize, TreeAndBundleTogetherAreAtMost60MiB) {
  const TempDir folder;
  const std::string tree = folder / "tree", bundle = folder / "tree/.gpu-bundle";
  constexpr std::int64_t mib = 1 << 20;
  make_file(tree + "/known.txt", 10 * mib);
  make_file(bundle + "/packed.tar.gz", 40 * mib);
  write_file_bytes(tree + "/.gitignore", "/.gpu-bundle/\n/build*/\n");
  make_file(tree + "/build/large", 500 * mib);
  ASSERT_EQ(shell("cd " + tree + " && git init -q . && git add known.txt").exit_code, 0);
  const std::vector<std::string> measure = {scripts + "travel_size.sh", tree, bundle};
  const ProcessResult fits = run_process(measure);
  EXPECT_EQ(fits.exit_code, 0) << fits.describe();
  EXPECT_THAT(fits.out, testing::AllOf(HasSubstr("40.0 MiB"), HasSubstr("10.0 MiB")));
  // Neither is too large alone; what git does not know travels too, whatever its name.
  make_file(tree + "/un known\nfile", 11 * mib);
  const ProcessResult large = run_process(measure);
  EXPECT_EQ(large.exit_code, 1) << large.describe();
  EXPECT_THAT(large.err, testing::AllOf(HasSubstr("too much to be sent"), HasSubstr("packed.tar.gz")));
  // What was deleted travels no more.
  fs::remove(tree + "/known.txt");
  EXPECT_EQ(run_process(measure).exit_code, 0);
}

/// A bundle as bundle.sh packs it, whose tools and libraries are made by the test.
class GpuBundle : public testing::Test {
 protected:
  GpuBundle() {
    const std::string made = folder / "made", usr = made + "/root/usr";
    for (const char* name : {"/lib/x86_64-linux-gnu/libmpi.so", "/lib/x86_64-linux-gnu/libz.so.1"})
      make_file(usr + name, 10);
    make_file(made + "/cudnn-frontend/include/cudnn_frontend.h", 10);
    for (const char* tool : {"orterun", "opal_wrapper"}) {
      fs::create_directories(usr + "/bin/.real");
      write_file_bytes(usr + "/bin/.real/" + tool,
                       "#!/bin/bash\necho \"$0 $* LIBRARIES=$LD_LIBRARY_PATH PREFIX=$OPAL_PREFIX\"\n");
      fs::permissions(usr + "/bin/.real/" + tool, fs::perms::owner_all);
      fs::copy_file(scripts + "wrapper.sh", usr + "/bin/" + tool);
      fs::permissions(usr + "/bin/" + tool, fs::perms::owner_all);
    }
    make_file(usr + "/bin/openssl", 10);
    fs::create_symlink("orterun", usr + "/bin/mpirun");
    fs::create_directory(made + "/bin");
    fs::create_symlink("../root/usr/bin/mpirun", made + "/bin/mpirun");
    fs::create_directory(folder / "b");
    EXPECT_EQ(shell("tar czf " + (folder / "b/packed.tar.gz") + " -C " + made + " root bin cudnn-frontend")
                  .exit_code,
              0);
    fs::copy_file(scripts + "env.sh", folder / "b/env.sh");
    // The folder may be moved.
    fs::create_directory(folder / "a folder");
    fs::rename(folder / "b", bundle);
  }
  std::string sourced(const std::string& then) const {
    const ProcessResult result =
        shell("set -uo pipefail; unset LD_LIBRARY_PATH; . '" + bundle + "/env.sh'; " + then);
    EXPECT_EQ(result.err, "");
    return result.out;
  }
  const TempDir folder;
  const std::string bundle = folder / "a folder/bundle";
};

TEST_F(GpuBundle, GccAndPythonKeepTheirOwnLibraries) {
  EXPECT_EQ(sourced("echo \"${LD_LIBRARY_PATH-none}\""), "none\n");
  // The second time there is nothing to unpack.
  EXPECT_EQ(sourced("echo \"${LD_LIBRARY_PATH-none}\""), "none\n");
  // Nothing but Open MPI's tools comes before the machine's own.
  EXPECT_EQ(sourced("for t in mpirun openssl; do case $(command -v $t) in *bundle*) echo $t ;; esac; done"),
            "mpirun\n");
  EXPECT_THAT(sourced("echo \"$LDFLAGS\""), HasSubstr("-Wl,--disable-new-dtags -Wl,-rpath," + bundle));
  EXPECT_THAT(sourced("echo \"$CMAKE_PREFIX_PATH\""), HasSubstr(bundle + "/cudnn-frontend"));
}

TEST_F(GpuBundle, MpirunFindsTheBundlesLibrariesAndKnowsItsName) {
  const std::string told = sourced("mpirun -n 2 'a b'");
  EXPECT_THAT(told, HasSubstr(" -n 2 a b LIBRARIES=" + bundle + "/root/usr/lib/x86_64-linux-gnu:"));
  EXPECT_THAT(told, HasSubstr("PREFIX=" + bundle + "/root/usr"));
}

}  // namespace
}  // namespace lockstep::test
