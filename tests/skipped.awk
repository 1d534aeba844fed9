# Of a log of ctest, the cases that were skipped in suites whose other cases passed, and why: ctest counts such a suite as
# passed.
/^[0-9]+\/[0-9]+ Testing: / { cases = 0 }
/^\[  SKIPPED \] [^ ]+ \([0-9]+ ms\)$/ { skipped[cases++] = $4 ": " why }
/^Test Passed\.$/ {
  for (i = 0; i < cases; ++i) print (any++ ? "" : "Skipped in suites that passed:\n") "  " skipped[i]
}
/[^ ]/ { why = $0 }
END { if (any) print "" }
