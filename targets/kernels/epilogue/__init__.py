"""From s32 accumulators in registers to stored elements, exactly."""
