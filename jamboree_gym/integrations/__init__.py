"""Recording what other libraries step; each module needs its extra."""
