package BMR::Bare;
# A bmrd with one listener and a few lines of configuration in a directory of the test's own, where BMR::Gateway would do too much:
# no -v unless asked for, stderr wherever the test wants it.
use strict;
use warnings;
use POSIX ();
use BMR::Gateway;
use BMR::Site;

sub conf {
	my ($dir, $services) = @_;
	my $own = join '', map { "$_\n" } qq(run-dir = "$dir/run"), qq(state-dir = "$dir/state"), qq(release-dir = "$BMR::Gateway::build/bin"), 'listeners = 1';
	BMR::Site::put("$dir/bmr.conf", $own . $services);
	return;
}

# Its pid. before => [words of a command that runs it], stderr => a handle instead of the file log, verbose => 1
sub start {
	my ($dir, %o) = @_;
	my $pid = fork() // die;
	return $pid if $pid;
	open(STDERR, $o{stderr} ? '>&' : '>>', $o{stderr} // "$dir/log");
	exec(@{ $o{before} // [] }, "$BMR::Gateway::build/bin/bmrd", '-F', $o{verbose} ? '-v' : (), '-f', "$dir/bmr.conf") or POSIX::_exit(127);
}

sub log {
	my ($dir) = @_;
	open(my $f, '<', "$dir/log") or return '';
	local $/;
	return <$f> // '';
}

1;
