# Headers that have moved are found under their old names too, until every file names the new ones.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/moved_headers.txt moved)
foreach(line IN LISTS moved)
  string(REPLACE " " ";" names "${line}")
  list(GET names 0 old)
  list(GET names 1 new)
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/moved/${old} CONTENT "#include \"${new}\"\n" @ONLY)
endforeach()
include_directories(${PROJECT_BINARY_DIR}/moved)
