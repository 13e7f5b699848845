"""Progress bars and live displays."""
