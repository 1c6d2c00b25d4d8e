"""What travels between coordinator and clients, and the border where it is checked."""
