"""What the commands share: the app, options, arguments, and how results are printed."""
