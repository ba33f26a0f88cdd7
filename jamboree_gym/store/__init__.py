"""Where logs lie: Redis, MongoDB, and the embedded servers for who has none."""
