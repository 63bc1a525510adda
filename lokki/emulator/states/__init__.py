"""An interpreter of Amazon States Language."""
