"""Wall time, arithmetic and memory of our trainers beside the released code's, on the same weights."""
