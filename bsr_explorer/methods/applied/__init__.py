"""What methods do to a real model. These files load torch."""
