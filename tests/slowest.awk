# Passes ctest's output on, and puts the ten slowest tests, and the cases of GoogleTest that failed, before its closing
# lines.
/ +Test +#[0-9]+: .* sec *$/ {
  seconds = $(NF - 1)
  name = $0
  sub(/^.*Test +#[0-9]+: /, "", name)
  sub(/[ .*]+(Passed|Failed|Exception|Timeout|Skipped|Not Run|\*\*\*).*$/, "", name)
  # Of a test that ran more than once the longest.
  if (!(name in took) || seconds > took[name]) took[name] = seconds
}
/^\[  FAILED  \] [^ ]+\.[^ ]+/ {
  name = $4
  sub(/,$/, "", name)
  if (!(name in failed)) { failed[name]; order[++failures] = name }
}
/^[0-9]+% tests passed/ {
  if (failures) print "Cases that failed:"
  for (n = 1; n <= failures; ++n) print "  " order[n]
  if (failures) print ""
  print "The slowest tests:"
  for (n = 0; n < 10; ++n) {
    slowest = ""
    for (name in took) if (slowest == "" || took[name] + 0 > took[slowest] + 0) slowest = name
    if (slowest == "") break
    printf "%9.2f s  %s\n", took[slowest], slowest
    delete took[slowest]
  }
  print ""
}
{ print; fflush() }
