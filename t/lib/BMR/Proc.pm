package BMR::Proc;
# Processes and their children. Not by /proc/PID/task/TID/children, which may leave some out while others end.
use strict;
use warnings;
use POSIX ();

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

# A program that runs until it is waited for (ended) or the test ends. Its output goes to that file, what it complains of beside it.
my ($owner, %started) = ($$);
sub start {
	my ($out, @cmd) = @_;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0) {
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', $out);
		open(STDERR, '>>', "$out.err") if $out ne '/dev/null';
		exec(@cmd) or POSIX::_exit(127);
	}
	$started{$pid} = 1;
	return $pid;
}
sub ended { my ($pid) = @_; waitpid($pid, 0); delete $started{$pid}; return }

END {
	if ($$ == $owner) {
		my $status = $?;
		kill 'KILL', keys %started;
		waitpid($_, 0) for keys %started;
		$? = $status;
	}
}

1;
