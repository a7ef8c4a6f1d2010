"""Code that the commands share: the app, options, arguments and output."""
