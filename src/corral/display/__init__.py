"""Words, quantities, trees and tables for people. No logic."""
