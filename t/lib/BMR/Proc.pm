package BMR::Proc;
# Processes and their children. Not by /proc/PID/task/TID/children, which may leave some out while others end.
use strict;
use warnings;

# { pid => [living children] } of all processes.
sub children {
	my %c;
	for my $dir (glob('/proc/[0-9]*')) {
		open(my $f, '<', "$dir/stat") or next;
		my ($state, $parent) = (<$f> // '') =~ /\) (\S) (\d+) [^)]*\z/ or next;
		push @{ $c{$parent} }, substr($dir, 6) if $state ne 'Z';
	}
	return \%c;
}

sub children_of { my ($pid) = @_; return @{ children()->{$pid} // [] } }

# A process and all below it.
sub tree {
	my ($pid) = @_;
	my $c = children();
	my @all = ($pid);
	for (my $i = 0; $i < @all; $i++) { push @all, @{ $c->{ $all[$i] } // [] } }
	return @all;
}

1;
