"""What a study said of its configurations, confirmed by training them at the target."""
