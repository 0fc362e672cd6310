"""The buses and who answers on them: nova's conductors, scheduler and computes. Nova itself is never imported."""
