"""What is told once and played twice: on the lab's real nova, and on the sandbox, which has to be like it."""
