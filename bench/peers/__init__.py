"""The engines that are measured, each in a process of its own, in an environment of its own where it needs one."""
