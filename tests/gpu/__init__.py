"""What only a CUDA device can show; skipped where there is none. CPT_GPU_TESTS_ON=cpu tries the tests themselves."""
