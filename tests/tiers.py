"""Which test files `make test` leaves out."""

# `make test` leaves these out and `make test-all` runs them; tests/README.md says why.
SLOW = {
    "adopt/test_rename.py",
    "artifact/test_saved_model.py",
    "end_to_end/test_adopted.py",
    "end_to_end/test_bad_input.py",
    "end_to_end/test_drills.py",
    "end_to_end/test_image.py",
    "end_to_end/test_kubernetes.py",
    "end_to_end/test_lab.py",
    "end_to_end/test_page.py",
    "end_to_end/test_paths.py",
    "end_to_end/test_remote.py",
    "end_to_end/test_reproducibility.py",
    "end_to_end/test_service_document.py",
    "end_to_end/test_service_limits.py",
    "end_to_end/test_service_load.py",
    "end_to_end/test_wheel.py",
    "scoring/test_materialize.py",
    "scoring/test_spark.py",
}

# Files that take minutes come first, so that both workers end at about the same time.
# The first one makes the sample run of the graph; those that need it come late: no worker waits.
FIRST = (
    "end_to_end/test_adopted.py",
    "end_to_end/test_bad_input.py",
    "end_to_end/test_graph.py",
    "adopt/test_adopt.py",
    "modeling/test_columnar.py",
    "data/test_engines.py",
    "scoring/test_batch.py",
    "artifact/test_saved_model.py",
    "end_to_end/test_reproducibility.py",
    "end_to_end/test_remote.py",
    "end_to_end/test_drills.py",
    "end_to_end/test_wheel.py",
    "adopt/test_rename.py",
    "scoring/test_spark.py",
    "modeling/test_tuning.py",
    "data/test_sources.py",
    "evaluation/test_leakage.py",
    "end_to_end/test_service.py",
)
