"""Models of any kind: what their step does is seen, not read: traced once, and then asked call by call."""
