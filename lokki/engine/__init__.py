"""What every engine shares: the local run, Lambda and the emulator."""
