"""One static HTML page that shows what the frozen features and a learned similarity find."""
