"""How the services and the store are: probed in the background, told to whoever asks, logged when it changes."""
