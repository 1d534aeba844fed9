#!/usr/bin/env bash
# Suites as tests of ctest (suites.cmake) and what run.sh says of them, with a program that answers as GoogleTest does.
#   suites_test.sh CMAKE CTEST TESTS_DIR
set -euo pipefail
cmake=$1 ctest=$2 tests=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $*" >&2; cat result >&2; exit 1; }
expect() { grep -qE "$1" result || fail "nothing of the form '$1'"; }

cat >program <<'PROGRAM'
#!/bin/sh
case $1 in
  --gtest_list_tests) printf 'Good.\n  A\n  B\nSizes/Bad/0.  # TypeParam = int\n  A\n  B\nNothing.\n  A\nPart.\n  A\n  B\nFalls.\n  A\n' ;;
  '--gtest_filter=Good.*') printf '[  PASSED  ] 2 tests.\n' ;;
  '--gtest_filter=Sizes/Bad/0.*') printf '[  FAILED  ] Sizes/Bad/0.A, where TypeParam = int (0 ms)\n[  PASSED  ] 0 tests.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Sizes/Bad/0.B\n[  FAILED  ] 1 test, listed below:\n[  FAILED  ] Sizes/Bad/0.A, where TypeParam = int\n\n 1 FAILED TEST\n'; exit 1 ;;
  '--gtest_filter=Nothing.*') printf 'a.cpp:1: Skipped\nno disk\n\n[  SKIPPED ] Nothing.A (0 ms)\n[  PASSED  ] 0 tests.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Nothing.A\n' ;;
  '--gtest_filter=Part.*') printf 'a.cpp:1: Skipped\nno disk\n\n[  SKIPPED ] Part.A (0 ms)\n[  PASSED  ] 1 test.\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Part.A\n' ;;
  *) kill -SEGV $$ ;;
esac
PROGRAM
chmod +x program
printf 'include("%s/weights.cmake")\nlockstep_weigh(2 ${fake_TESTS})\n' "$tests" >weights.cmake
write() { "$cmake" -DPROGRAM="$work/$1" -DNAME=fake -DFILE="$work/CTestTestfile.cmake" -DTIMEOUT=10 \
  -DWEIGHTS="$work/weights.cmake" -P "$tests/suites.cmake" >result 2>&1; }
write program || fail "the suites were not written"

code=0
"$ctest" --output-on-failure >log 2>&1 || code=$?
awk -f "$tests/slowest.awk" log >result
awk -f "$tests/skipped.awk" Testing/Temporary/LastTest.log >>result
[ "$code" -ne 0 ] || fail "ctest passes what fails"
expect 'Good\.all \.+ +Passed'
expect 'Sizes/Bad/0\.all \.+\*\*\*Failed'
expect 'Nothing\.all \.+\*\*\*Skipped'
expect 'Part\.all \.+ +Passed'
expect 'Falls\.all \.+\*\*\*Exception'
expect '2 tests failed out of 5'
expect '^  Sizes/Bad/0\.A$'
expect '^  Part\.A: no disk$'
if grep -q '^  Nothing\.A' result; then fail "a suite that ctest calls skipped is named again"; fi

# A program that tells no suite stops the build.
for answer in 'exit 0' 'exit 3'; do
  printf '#!/bin/sh\n%s\n' "$answer" >silent
  chmod +x silent
  if write silent; then fail "'$answer' was taken"; fi
done
